-- Forwards new ultrasound and X-ray images of this Orthanc to the DICOM AI node, and takes its results
-- without sending them back. For Orthanc 1.9 and newer; see README.md beside this file.
--
-- What became of an image stands in its metadata "AiNode" (UserMetadata in orthanc.json):
--   waiting    is to be forwarded, or the node did not take it yet
--   forwarded  the node has it (its C-STORE Success means: safely on its disk)
--   result     came from the node, as far as Orthanc itself can tell: never forwarded
-- The metadata is the only memory: after a crash or while the node is away, what still says "waiting" is
-- forwarded again. The node knows an object that comes twice.

-- Settings ------------------------------------------------------------------------------------------------

-- Name of the node in DicomModalities.
local NODE = 'ainode'

-- Addresses from which the node's results come, where they are not the "Host" of NODE in DicomModalities
-- (that is a name, or the node is behind a gateway): { '192.0.2.10' }.
local NODE_ADDRESSES = {}

-- What waits is tried again after so many seconds (with the next HTTP request or the next image).
local RETRY_SECONDS = 30

-- After a start, so many of the newest changes are looked through for images that still wait.
local LOOK_BACK = 20000

-- SOP classes to forward (PS3.4 B.5); results (SR, presentation states, secondary captures …) are not here.
local FORWARDED_CLASSES = {
  ['1.2.840.10008.5.1.4.1.1.1'] = true,      -- Computed Radiography
  ['1.2.840.10008.5.1.4.1.1.1.1'] = true,    -- Digital X-Ray, for presentation
  ['1.2.840.10008.5.1.4.1.1.1.1.1'] = true,  -- Digital X-Ray, for processing
  ['1.2.840.10008.5.1.4.1.1.3'] = true,      -- Ultrasound Multi-frame (retired)
  ['1.2.840.10008.5.1.4.1.1.3.1'] = true,    -- Ultrasound Multi-frame
  ['1.2.840.10008.5.1.4.1.1.6'] = true,      -- Ultrasound (retired)
  ['1.2.840.10008.5.1.4.1.1.6.1'] = true,    -- Ultrasound
}

-- Manufacturer and model that every result of a node bears in its Contributing Equipment Sequence, also a
-- cleaned ultrasound (of an ultrasound class!). Anybody can copy it: alone it keeps nothing from the node.
local NODE_MANUFACTURER = 'DICOM AI Node project'
local NODE_MODEL = 'DICOM AI Node'

-- -----------------------------------------------------------------------------------------------------------

local METADATA = 'AiNode'

local waiting = {}   -- instances that the node did not take yet
local jobs = {}      -- running jobs of ours: job -> instance
local nextTry = 0    -- seconds since 1970

local function setMetadata(instance, value)
  RestApiPut('/instances/' .. instance .. '/metadata/' .. METADATA, value)
end

-- RestApiGet logs an error for what is not there: look before you ask.
local function getMetadata(instance)
  local all = RestApiGet('/instances/' .. instance .. '/metadata?expand')
  if all == nil then  -- deleted meanwhile
    return nil
  end
  return ParseJson(all)[METADATA]
end

local function forward(instance)
  local request = { Resources = { instance }, Synchronous = false }
  local answer = RestApiPost('/modalities/' .. NODE .. '/store', DumpJson(request))
  waiting[instance] = nil
  if answer == nil then  -- NODE is not in DicomModalities: the log says so
    waiting[instance] = true
  else
    jobs[ParseJson(answer)['ID']] = instance
  end
end

local function nodeConfiguration()
  local answer = RestApiGet('/modalities/' .. NODE .. '/configuration')
  return answer ~= nil and ParseJson(answer) or {}
end

local function isAddressOfNode(address, node)
  for _, known in pairs(NODE_ADDRESSES) do
    if address == known then
      return true
    end
  end
  return address ~= nil and address == node['Host']
end

local function namesNode(tags)
  local equipment = tags['ContributingEquipmentSequence']
  if type(equipment) == 'table' then
    for _, item in pairs(equipment) do
      if type(item) == 'table' and item['Manufacturer'] == NODE_MANUFACTURER and
         item['ManufacturerModelName'] == NODE_MODEL then
        return true
      end
    end
  end
  return false
end

-- What the sender says of itself (AE title, equipment) counts only from an address of the node. A result that
-- comes another way is forwarded like an image: the node knows what it built, and starts nothing.
local function comesFromNode(tags, origin)
  local node = nodeConfiguration()
  local claims = origin['RemoteAet'] ~= nil and origin['RemoteAet'] == node['AET'] or namesNode(tags)
  if claims and not isAddressOfNode(origin['RemoteIp'], node) then
    print('AiNode: an object says that it is of the node and does not come from there: ' ..
          (origin['RequestOrigin'] or '') .. ' ' .. (origin['RemoteIp'] or 'from an unknown address'))
  end
  return claims and isAddressOfNode(origin['RemoteIp'], node)
end

local function tryAgain()
  if os.time() < nextTry then
    return
  end
  nextTry = os.time() + RETRY_SECONDS
  local again = {}
  for instance, _ in pairs(waiting) do
    table.insert(again, instance)
  end
  for _, instance in ipairs(again) do
    if getMetadata(instance) == 'waiting' then
      forward(instance)
    else
      waiting[instance] = nil
    end
  end
end

-- The instance of a job of ours, also of one that was submitted before a restart.
local function instanceOf(job)
  if jobs[job] ~= nil then
    return jobs[job]
  end
  local answer = RestApiGet('/jobs/' .. job)
  local content = answer ~= nil and ParseJson(answer)['Content'] or {}
  local resources = content['ParentResources']
  if content['RemoteAet'] == nodeConfiguration()['AET'] and type(resources) == 'table' and #resources == 1 then
    return resources[1]
  end
  return nil
end

local function onStoredInstance(instance, tags, metadata, origin)
  if comesFromNode(tags, origin) then
    setMetadata(instance, 'result')
  elseif FORWARDED_CLASSES[tags['SOPClassUID']] and metadata['AnonymizedFrom'] == nil then
    setMetadata(instance, 'waiting')
    forward(instance)
  end
  tryAgain()
end

local function onJobSuccess(job)
  local instance = instanceOf(job)
  if instance ~= nil and getMetadata(instance) == 'waiting' then
    setMetadata(instance, 'forwarded')
  end
  jobs[job] = nil
end

local function onJobFailure(job)
  local instance = instanceOf(job)
  if instance ~= nil and getMetadata(instance) == 'waiting' then
    waiting[instance] = true
    nextTry = math.max(nextTry, os.time() + 1)
  end
  jobs[job] = nil
end

-- Takes up what was on its way when Orthanc stopped.
local function initialize()
  local last = ParseJson(RestApiGet('/changes?last'))['Last']
  local since = math.max(0, last - LOOK_BACK)
  local done = false
  while not done do
    local page = ParseJson(RestApiGet('/changes?limit=1000&since=' .. string.format('%d', since)))
    for _, change in pairs(page['Changes']) do
      if change['ChangeType'] == 'NewInstance' and getMetadata(change['ID']) == 'waiting' then
        waiting[change['ID']] = true
      end
    end
    done = page['Done']
    since = page['Last']
  end
end

-- What Orthanc calls. A script of the site that was loaded before this one keeps its own functions.

local function also(theirs, ours)
  return function(...)
    if theirs ~= nil then
      theirs(...)
    end
    ours(...)
  end
end

Initialize = also(Initialize, initialize)
OnStoredInstance = also(OnStoredInstance, onStoredInstance)
OnJobSuccess = also(OnJobSuccess, onJobSuccess)
OnJobFailure = also(OnJobFailure, onJobFailure)

-- Orthanc's Lua has no timer: any HTTP request (a viewer, a health check) is the clock.
local theirFilter = IncomingHttpRequestFilter

function IncomingHttpRequestFilter(...)
  tryAgain()
  return theirFilter == nil or theirFilter(...)
end
